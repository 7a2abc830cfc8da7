#!/usr/bin/env python3
"""Health checks: `health.py URL` (it answers), `health.py URL COMPONENT` (Airflow reports it as healthy)."""

import json
import sys
import urllib.request

SECONDS = 8


def is_healthy(url: str, component: str | None = None) -> bool:
    """Whether `url` answers and, if `component` is given, Airflow's report there calls it healthy."""
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:
            report = json.load(answer) if component else {}
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{url}: {error}\n")
        return False
    return component is None or report.get(component, {}).get("status") == "healthy"


if __name__ == "__main__":
    sys.exit(not is_healthy(*sys.argv[1:]))
