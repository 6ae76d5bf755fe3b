"""The Delta tables of a home: records in, Arrow out, whoever writes them."""
