// One feature: its label, the statistics of its rows, and what was cut from them.
// $key: text  the feature
// -> key: text, model: text, set_key: text, layer: int, idx: int, label: text, label_source: text, bias: float,
//    threshold: float, norm_enc: float, norm_dec: float, constant: float, l1_in: float, l1_out: float,
//    mean_tokens: float, std_tokens: float, mean_logits: float, std_logits: float, means_in_by_layer: floats,
//    stds_in_by_layer: floats, cut_in_z: float, cut_out_z: float, cuts_in_by_layer: floats, cuts_out_by_layer: floats,
//    cut_token_pos: float, cut_token_neg: float, cut_logit_pos: float, cut_logit_neg: float
MATCH (f:Feature {key: $key})
RETURN f.key AS key, f.model AS model, f.set AS set_key, f.layer AS layer, f.idx AS idx, f.label AS label,
  f.label_source AS label_source, f.bias AS bias, f.threshold AS threshold, f.norm_enc AS norm_enc,
  f.norm_dec AS norm_dec, f.constant AS constant, f.l1_in AS l1_in, f.l1_out AS l1_out, f.mean_tokens AS mean_tokens,
  f.std_tokens AS std_tokens, f.mean_logits AS mean_logits, f.std_logits AS std_logits,
  f.means_in_by_layer AS means_in_by_layer, f.stds_in_by_layer AS stds_in_by_layer, f.cut_in_z AS cut_in_z,
  f.cut_out_z AS cut_out_z, f.cuts_in_by_layer AS cuts_in_by_layer, f.cuts_out_by_layer AS cuts_out_by_layer,
  f.cut_token_pos AS cut_token_pos, f.cut_token_neg AS cut_token_neg, f.cut_logit_pos AS cut_logit_pos,
  f.cut_logit_neg AS cut_logit_neg
