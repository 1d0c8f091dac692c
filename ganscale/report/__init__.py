"""The report: what runs and sweeps have written, as one HTML page that needs no network and no account."""
