"""What differs between the versions of the libraries that are supported; nothing else asks for a version."""
