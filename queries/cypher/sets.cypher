// The sets of transcoders in the atlas, and what was cut from each.
// $model: text = ""  only sets of this model; all if empty
// -> set_key: text, model: text, kind: text, read_site: text, write_site: text, activation: text, layers: int,
//    features: int, edges: int, vocabulary: text, model_layers: int, saelens_release: text, neuronpedia_id: text,
//    label_source: text, cut: text, run: text, repo: text, revision: text,
//    observation: text
MATCH (s:TranscoderSet)-[:OF]->(m:Model)
WHERE $model = '' OR m.key = $model
RETURN s.key AS set_key, m.key AS model, s.kind AS kind, s.read_site AS read_site, s.write_site AS write_site,
  s.activation AS activation, s.n_layers AS layers, s.n_features AS features, s.n_edges AS edges,
  m.tokenizer AS vocabulary, m.n_layers AS model_layers, s.saelens_release AS saelens_release,
  s.neuronpedia_id AS neuronpedia_id, s.label_source AS label_source, s.cut AS cut, s.run AS run, s.repo AS repo,
  s.revision AS revision, coalesce(s.observation, '') AS observation
ORDER BY set_key
