// The tokens that two features both read, of one model or of two that share a vocabulary; score is the weaker of the
// two ties, by abs(z) if not said.
// $a: text          one feature
// $b: text          the other
// $by: text = "z"   what the score is: z, weight, share, drive, twera or coactivation
// $live: int = 0    1 for what is active together with both on the observed text only
// $limit: int = 20  how many to return
// -> key: text, label: text, weight_a: float, weight_b: float, z_a: float, z_b: float, score: float
MATCH (a:Feature {key: $a})<-[x:ACTIVATES]-(t:Token)-[y:ACTIVATES]->(b:Feature {key: $b})
// What is not asked for has size -1, as in the query named inputs.
WITH t, x, y, CASE WHEN $live = 1 AND coalesce(x.n_both, 0) = 0 THEN -1.0
  WHEN $by = 'weight' THEN abs(x.weight) WHEN $by = 'share' THEN x.share
  WHEN $by = 'drive' THEN abs(x.drive_active) WHEN $by = 'twera' THEN abs(x.twera)
  WHEN $by = 'coactivation' THEN x.n_both * 1.0 ELSE abs(x.z) END AS one,
  CASE WHEN $live = 1 AND coalesce(y.n_both, 0) = 0 THEN -1.0
  WHEN $by = 'weight' THEN abs(y.weight) WHEN $by = 'share' THEN y.share
  WHEN $by = 'drive' THEN abs(y.drive_active) WHEN $by = 'twera' THEN abs(y.twera)
  WHEN $by = 'coactivation' THEN y.n_both * 1.0 ELSE abs(y.z) END AS other
WHERE one >= 0 AND other >= 0
RETURN t.key AS key, t.text AS label, x.weight AS weight_a, y.weight AS weight_b, x.z AS z_a, y.z AS z_b,
  CASE WHEN one < other THEN one ELSE other END AS score
ORDER BY score DESC, key
LIMIT $limit
