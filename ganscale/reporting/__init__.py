"""The report: what runs have written, as one HTML page that needs no network and no account."""
