"""What differs between the versions of the libraries that are supported; no other module decides by a version."""
