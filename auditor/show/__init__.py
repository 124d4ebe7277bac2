"""How a result is laid out, without knowing any: blocks, charts, pictures, export."""
