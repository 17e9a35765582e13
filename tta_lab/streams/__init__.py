"""Streams of shifted images: orders, protocols, continually changing corruptions."""
