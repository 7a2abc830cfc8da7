"""May a challenger be put into service, and back: the gate, promotion and rollback."""
