"""Enrolled people: embeddings in one SQLite file, and engines that search them."""

from metaface.recognition.gallery.gallery import Gallery, GalleryError
from metaface.recognition.gallery.search import Exact, Faiss, Qdrant, Search, recall

__all__ = ["Exact", "Faiss", "Gallery", "GalleryError", "Qdrant", "Search", "recall"]
