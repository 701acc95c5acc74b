"""Readers of corpora: how recordings and transcripts are laid out, for each format.

A reader is a generator over a corpus, in the order of its lines or of its sorted paths. It yields an `Entry` for each
utterance and a `Reject` for what it cannot parse, and reads no audio. `headrace.featurize.corpus.validate` checks for
all formats whether a recording exists and is usable.
"""
