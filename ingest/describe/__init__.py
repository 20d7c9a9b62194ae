"""What each feature is, said from its weights and confirmed by running single tokens.

Three presets (:mod:`ingest.describe.presets`): ``atlas``, ours (:mod:`ingest.describe.validated`), and the
published method WeightLens with the thresholds of its code or of its paper (:mod:`ingest.describe.weightlens`).
What they write, and how it becomes labels, is the business of :mod:`atlas.descriptions`.
"""

from ingest.describe.presets import PRESETS, Request, chosen_tokens, describe, open_evidence

__all__ = ["PRESETS", "Request", "chosen_tokens", "describe", "open_evidence"]
