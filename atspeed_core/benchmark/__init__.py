"""The benchmark: six ways to decode, on one device, in one run, on the same requests."""
