// One model and its sets, each with the run that computed it.
// $model: text  the model, such as gpt2-small
// -> model: text, family: text, layers: int, width: int, vocabulary: text, set_key: text, kind: text, features: int,
//    edges: int, run: text, code: text
MATCH (m:Model {key: $model})<-[:OF]-(s:TranscoderSet)-[:LOADED_BY]->(r:Run)
RETURN m.key AS model, m.family AS family, m.n_layers AS layers, m.d_model AS width, m.tokenizer AS vocabulary,
  s.key AS set_key, s.kind AS kind, s.n_features AS features, s.n_edges AS edges, r.key AS run, r.code AS code
ORDER BY set_key
