"""Untrusted bytes to typed manifests: weights, arrays, archives of images. Pure: no database, no web."""
