"""Every name under which c2lst writes, in one place."""

from __future__ import annotations


class Key:
    """Keys of `obsm`, `obs`, `var` and `uns` that c2lst reads and writes."""

    UNS = "c2lst"  # uns["c2lst"] of every object c2lst has touched
    SECTION = "c2lst_section"  # uns / attrs: the section's name; obs of synthetic spots

    class obsm:
        PATCHES = "patches"
        SPATIAL = "spatial"
        EMBEDDING = "X_c2lst"
        PREDICTED = "c2lst_predicted"

    class obs:
        VALID = "c2lst_valid"
        SPLIT = "c2lst_split"
        SAMPLED = "c2lst_sampled"
        TRUST = "c2lst_trust"
        ORIGIN = "c2lst_origin"
        PARENT = "c2lst_parent"
        PARTNER = "c2lst_partner"
        PARTNER_SECTION = "c2lst_partner_section"
        SEED = "c2lst_seed"
        AGREEMENT = "c2lst_agreement"
        RANK = "c2lst_rank"
        KEPT = "c2lst_kept"

    class var:
        GENES = "c2lst_genes"
        MEAN = "c2lst_mean"
        PCC = "c2lst_pcc"
        MORAN = "c2lst_moran"

    class uns:
        OVERLAP = "embedding_overlap"
        COMPOSITION = "composition"
        ROUND_TRIP = "round_trip"
        MEMORIZATION = "memorization"
        COHERENCE = "spatial_coherence"


SCHEMA_VERSION = 1
