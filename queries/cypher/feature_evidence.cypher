// How often and how strongly one feature fires on the observed text; nothing known where none was observed.
// $key: text  the feature
// -> key: text, n_fires: int, density: float, mean_active: float, max_active: float, token_share: float,
//    inv_sigma: float, live: int
MATCH (f:Feature {key: $key})
RETURN f.key AS key, f.n_fires AS n_fires, f.density AS density, f.mean_active AS mean_active,
  f.max_active AS max_active, f.token_share AS token_share, f.inv_sigma AS inv_sigma,
  CASE WHEN f.live THEN 1 WHEN f.n_fires >= 0 THEN 0 END AS live
