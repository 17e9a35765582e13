"""Image sets: the embedded ones, folders, published sets, and corruptions of them."""
