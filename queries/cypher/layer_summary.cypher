// Each layer of a model's sets: how many features, how strongly they read, write and are biased on average.
// $model: text  the model, such as gpt2-small
// -> set_key: text, layer: int, features: int, mean_l1_in: double, mean_l1_out: double, mean_norm_enc: double,
//    mean_norm_dec: double, mean_bias: double, mean_constant: double
MATCH (f:Feature {model: $model})
RETURN f.set AS set_key, f.layer AS layer, count(f) AS features, avg(f.l1_in) AS mean_l1_in,
  avg(f.l1_out) AS mean_l1_out, avg(f.norm_enc) AS mean_norm_enc, avg(f.norm_dec) AS mean_norm_dec,
  avg(f.bias) AS mean_bias, avg(f.constant) AS mean_constant
ORDER BY set_key, layer
