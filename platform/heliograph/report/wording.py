"""Numbers in plain words: what a reader without statistics may conclude, and no more."""

from __future__ import annotations

from heliograph.ranking.fitting import CohortEvidence
from heliograph.report.evidence import Evidence, best_single, main_cutoff
from heliograph.significance import PairedDifference
from heliograph.verdict import DECISIVE_K, PIPELINE

LEVEL = 0.05
"""Of p values below it the report says that chance is an unlikely explanation."""

SMALLEST = 1e-4
"""The smallest p value that is written out."""

NAMES = {"als": "ALS", "item_lm": "item LM"}
"""Of the models that are not called in the report what they are called in the code."""

KINDS = {
    "pipeline": "the item LM and the evidence of the four sources together: what is served",
    "retrieval": "the evidence of the four sources without the item LM",
    "item_lm": "a generative language model whose words are the items: reads the history in order",
    "transitions": "counts which item follows which",
    "als": "matrix factorisation: users who took the same items are alike",
    "text": "items whose descriptions are like those of the history",
    "popularity": "the same list for everyone: what most users took",
}
"""Model -> what it does, the whole before its parts."""


def name_of(model: str) -> str:
    """Return what the report calls a model."""
    return NAMES.get(model, model)


def verdict_sentences(evidence: Evidence) -> list[str]:
    """Say how good the pipeline is, and how surely it is better than simpler things."""
    verdict = evidence.served
    single = best_single(verdict) if verdict.models else None
    if single is None or PIPELINE not in verdict.models:
        return ["Nobody was evaluated, so nothing is known of how good the recommendations are."]
    k = main_cutoff(verdict)
    shares = {name: f"{100 * row[f'recall@{k}']:.1f} %" for name, row in verdict.models.items()}
    others = f"{shares[single]} for the best single model, {name_of(single)}"
    if single != "popularity":
        others += f", and {shares['popularity']} for a list of the most popular items"
    first = (
        f"For {shares[PIPELINE]} of {evidence.users:,} users, the one item hidden from the "
        f"pipeline was among its first {k} recommendations, out of {evidence.items:,} items, "
        f"against {others}."
    )
    if not verdict.lead:
        return [first, "There are too few users to tell whether the difference is more than luck."]
    names = dict.fromkeys((single, "popularity"))
    leads = "; it ".join(lead_sentence(name, verdict.lead[name]) for name in names)
    return [
        first,
        f"By NDCG@{DECISIVE_K}, which also counts how high up the item stands, it {leads}.",
    ]


def lead_sentence(model: str, found: PairedDifference) -> str:
    """Say where the pipeline stands to a model, after `it`.

    Args:
        model: That is compared with the pipeline.
        found: The model's value minus the pipeline's.
    """
    lead, low, high = -found.difference, -found.high, -found.low
    side = "ahead of" if lead >= 0 else "behind"
    span = f"{low:+.4f} to {high:+.4f}"
    return (
        f"is {side} {name_of(model)} by {abs(lead):.4f} (95 % interval of the lead {span}; "
        f"{p_text(found.p_adjusted)}: {chance(found.p_adjusted)})"
    )


def chance(p: float) -> str:
    """Say what a p value means: how often luck alone brings as much."""
    if p >= LEVEL:
        return "luck alone could well bring as wide a gap, so no difference is shown"
    return f"without a real difference, luck brings as wide a gap in {_odds(p)} such tests"


def p_text(p: float) -> str:
    """Write a p value as `p = 0.008`, or `p < 0.0001`."""
    return f"p {p_number(p)}" if p < SMALLEST else f"p = {p_number(p)}"


def p_number(p: float) -> str:
    """Write a p value as `0.008`, or `< 0.0001`: of smaller ones no test knows the size."""
    return f"< {SMALLEST:.4f}" if p < SMALLEST else f"{p:.2g}"


def decision(cohort: CohortEvidence, set_by_hand: bool) -> str:
    """Say why a cohort has the weights that it has."""
    if set_by_hand:
        why = "the weights were set by hand"
    elif cohort.own is None or cohort.p_value is None:
        why = "shared weights: too few users to fit its own"
    elif cohort.has_own:
        why = f"its own weights: better on users not used to fit them, {p_text(cohort.p_value)}"
    else:
        why = f"shared weights: its own were not surely better, {p_text(cohort.p_value)}"
    return why if cohort.asks_item_lm else f"{why}; the item LM did not help and is not asked"


def _odds(p: float) -> str:
    """Round 1 / p down to two digits, so that chance is never made to look smaller than it is."""
    if p < SMALLEST:
        return "fewer than 1 of 10,000"
    times = int(1 / p)
    unit = 10 ** max(len(str(times)) - 2, 0)
    return f"about 1 of {times // unit * unit:,}"
