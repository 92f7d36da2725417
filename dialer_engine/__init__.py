"""dialer_engine: a crash-safe, event-driven predictive dialer daemon for Asterisk."""

__version__ = "0.1.0"
