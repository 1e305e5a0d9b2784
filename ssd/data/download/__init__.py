"""Downloads of the datasets that have public servers."""
