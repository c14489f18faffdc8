"""DatUS in Python."""
