// The models in the atlas, with what their sets hold together.
// -> model: text, layers: int, features: int, edges: int, tokenizer: text, revision: text, family: text, d_model: int,
//    n_vocab: int, repo: text
MATCH (m:Model)
OPTIONAL MATCH (s:TranscoderSet)-[:OF]->(m:Model)
RETURN m.key AS model, m.n_layers AS layers, coalesce(sum(s.n_features), 0) AS features,
  coalesce(sum(s.n_edges), 0) AS edges, m.tokenizer AS tokenizer, m.revision AS revision, m.family AS family,
  m.d_model AS d_model, m.n_vocab AS n_vocab, m.repo AS repo
ORDER BY model
