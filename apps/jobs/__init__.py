"""What each app does once its command line is parsed; importing a job imports torch."""
