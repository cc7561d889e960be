"""Figures that others have published for the same files and the same protocol."""

from __future__ import annotations

SEQUENCES = {"beauty": "sequences.txt", "ml-1m": "sequences_sasrec_ids.txt"}
"""Name of the file of sequences of each dataset."""

PUBLISHED: dict[str, list[tuple[str, str, str]]] = {
    "beauty": [
        ("SASRec, as TIGER (2023) reports it", ".0605", ".0318"),
        ("TIGER", ".0648", ".0384"),
        ("ActionPiece", ".0775", ".0424"),
        ("HSTU, recomputed", ".0788", ".0439"),
        ("SASRec with a softmax loss", ".0921", ".0531"),
        ("PCTM (counts with the validation item)", ".0998", ".0635"),
    ],
    "ml-1m": [
        ("gSASRec", ".3003", ".1726"),
        ("PCTM (another order of ties)", ".3057", ".1815"),
        ("HSTU (another order of ties)", ".3097", ".1720"),
        ("SASRec with a softmax loss", ".3152", ".1821"),
        ("HSTU-large (another order of ties)", ".3294", ".1893"),
    ],
}
"""Dataset -> method, HR@10, NDCG@10."""
