"""Long runs that try to break what the documentation promises: `python -m tests.torture`."""
