"""The main job on real data: ``python -m xmkern.demo`` trains a dual encoder, hashes, indexes, searches and reports."""
