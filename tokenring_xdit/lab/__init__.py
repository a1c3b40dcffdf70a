"""A laboratory: networks emulated by the kernel, and ranks that measure what joins them. Only bench and cli use it."""
