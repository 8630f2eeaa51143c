"""Every field of transformers' configurations is used, or refused, or has no effect here.

For each field, the tables say another value than the usual one. With this value, the configuration
is another (USED), or is refused in one line that names the field (REFUSED), or is the same, since
the field does not change what the model computes (NO_EFFECT). A field that a new version of
transformers adds is in no table, and fails the test until somebody has decided.
"""

import dataclasses

import pytest

from npgpt import UserError
from npgpt.models.registry import ARCHITECTURES

pytestmark = pytest.mark.usefixtures("oracle")

# what is said of results, files, tokens and heads of other classes; nothing that is computed here
NO_EFFECT = {
    "transformers_version": "4.0.0",
    "architectures": ["Unknown"],  # BERT's are another matter; other models follow from the tensors
    "output_hidden_states": True,
    "output_attentions": True,
    "return_dict": False,
    "dtype": "float64",  # how the weights are stored
    "chunk_size_feed_forward": 2,  # the same numbers, in several parts
    "id2label": {0: "a", 1: "b", 2: "c"},
    "label2id": {"a": 0, "b": 1, "c": 2},
    "problem_type": "regression",
    "use_cache": False,
    "bos_token_id": 3,
    "eos_token_id": 3,
    "model_type": None,  # which class of configurations reads the file
    "_name_or_path": "x",
}
SUMMARY = {  # of GPT2DoubleHeadsModel, which is not here
    "summary_type": "mean",
    "summary_use_proj": False,
    "summary_activation": "tanh",
    "summary_proj_to_labels": False,
    "summary_first_dropout": 0.5,
}
GPT_USED = {
    "vocab_size": 60000,
    "n_positions": 7,
    "n_embd": 24,
    "n_layer": 1,
    "n_head": 1,
    "resid_pdrop": 0.5,
    "embd_pdrop": 0.5,
    "attn_pdrop": 0.5,
    "layer_norm_epsilon": 0.5,
    "initializer_range": 0.5,
    "tie_word_embeddings": False,
}
LLAMA_USED = {
    "vocab_size": 60000,
    "hidden_size": 4160,
    "intermediate_size": 24,
    "num_hidden_layers": 40,
    "num_attention_heads": 64,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "hidden_act": "relu",
    "max_position_embeddings": 7,
    "initializer_range": 0.5,
    "rms_norm_eps": 0.5,
    "pad_token_id": 3,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
    "attention_dropout": 0.5,
}
LLAMA_REFUSED = {"is_encoder_decoder": True}
NOT_OF_ITS_CLASS = {  # no fields of transformers' class, but files may have them
    "partial_rotary_factor": 0.5,
    "quantization_config": {"bits": 4},
}
USED = {
    "gpt2": GPT_USED | {
        "n_inner": 24, "activation_function": "relu", "scale_attn_weights": False,
        "scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True,
    },
    "openai-gpt": GPT_USED | {"afn": "relu"},
    "llama": LLAMA_USED | {"attention_bias": True, "mlp_bias": True},
    "mistral": LLAMA_USED | {"sliding_window": 24},
    "qwen2": {k: v for k, v in LLAMA_USED.items() if k != "head_dim"}
    | {"use_sliding_window": False, "sliding_window": 24, "max_window_layers": 2},
    "bert": {
        "vocab_size": 60000, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 1,
        "intermediate_size": 24, "hidden_act": "relu", "hidden_dropout_prob": 0.5,
        "attention_probs_dropout_prob": 0.5, "max_position_embeddings": 7, "type_vocab_size": 3,
        "initializer_range": 0.5, "layer_norm_eps": 0.5, "pad_token_id": 3,
        "classifier_dropout": 0.5, "id2label": {0: "a", 1: "b", 2: "c"},
        "architectures": ["BertForMaskedLM"],
    },
    "marian": {
        "max_position_embeddings": 7, "activation_function": "relu", "d_model": 32, "dropout": 0.5,
        "attention_dropout": 0.5, "init_std": 0.5, "decoder_start_token_id": 3,
        "scale_embedding": True, "pad_token_id": 3, "eos_token_id": 3,
    },
}  # fmt: skip
REFUSED = {
    "gpt2": {"add_cross_attention": True, "is_encoder_decoder": True},
    "openai-gpt": {"is_encoder_decoder": True},
    "llama": LLAMA_REFUSED | {"layer_types": ["sliding_attention"] * 32} | NOT_OF_ITS_CLASS,
    "mistral": LLAMA_REFUSED
    | NOT_OF_ITS_CLASS
    | {"layer_types": ["full_attention"] * 32, "attention_bias": True, "mlp_bias": True},
    "qwen2": LLAMA_REFUSED
    | NOT_OF_ITS_CLASS
    | {"layer_types": ["full_attention"] * 31, "attention_bias": True, "mlp_bias": True},
    "bert": {
        "is_decoder": True, "add_cross_attention": True, "is_encoder_decoder": True,
        "tie_word_embeddings": False, "position_embedding_type": "relative_key",
        "quantization_config": {"bits": 4},
    },
    "marian": {
        # of one size with the decoder's, so each is used only together with the decoder's
        "vocab_size": 60000, "decoder_vocab_size": 60000, "encoder_layers": 1, "decoder_layers": 1,
        "encoder_attention_heads": 1, "decoder_attention_heads": 1, "encoder_ffn_dim": 24,
        "decoder_ffn_dim": 24, "encoder_layerdrop": 0.5, "decoder_layerdrop": 0.5,
        "activation_dropout": 0.5, "share_encoder_decoder_embeddings": False, "is_decoder": True,
        "is_encoder_decoder": False, "tie_word_embeddings": False,
    },
}  # fmt: skip
NONE_HERE = {
    "gpt2": SUMMARY | {"pad_token_id": 3},  # GPT-2's table has no row of the padding
    "openai-gpt": SUMMARY | {"pad_token_id": 3},
    "llama": {
        "pretraining_tp": 2,  # the same products, in several parts
        "sliding_window": 24,  # transformers' Llama has no window, whatever the file says
    },
    "marian": {"forced_eos_token_id": 3},  # an option of generation, which is read apart
}
KINDS = pytest.mark.parametrize("kind", USED)


def usual(kind):
    """Return transformers' class, and all fields that it writes with their usual values."""
    from transformers import CONFIG_MAPPING

    theirs = CONFIG_MAPPING[kind]
    fields = theirs().to_dict() | {"architectures": None}
    # layer_types is written for Qwen2 and follows from other fields, which the test changes
    fields.pop("layer_types", None)
    return theirs, fields | ({"use_sliding_window": True, "sliding_window": 4096} if kind == "qwen2"
                             else {})  # fmt: skip


@KINDS
def test_every_field_is_in_one_table(kind):
    theirs, _ = usual(kind)
    own = USED[kind] | REFUSED[kind]
    tables = [{*USED[kind]}, {*REFUSED[kind]}, {*NO_EFFECT, *NONE_HERE.get(kind, {})} - {*own}]
    listed = [name for table in tables for name in table]
    assert len(listed) == len(set(listed))
    fields = {field.name for field in dataclasses.fields(theirs)} | {*theirs().to_dict()}
    assert fields - set(listed) == set()


@KINDS
def test_each_field_does_what_its_table_says(kind):
    _, fields = usual(kind)
    read = ARCHITECTURES[kind].config.from_dict
    before = read(fields)
    for name, value in USED[kind].items():
        assert value != fields.get(name), name
        assert read(fields | {name: value}) != before, name
    for name, value in REFUSED[kind].items():
        with pytest.raises(UserError, match=name) as raised:
            read(fields | {name: value})
        assert "\n" not in str(raised.value) and len(str(raised.value)) < 200, name
    for name, value in (NO_EFFECT | NONE_HERE.get(kind, {})).items():
        if name not in USED[kind] | REFUSED[kind] and name != "model_type":
            assert read(fields | {name: value}) == before, name


@KINDS
def test_a_field_that_lacks_has_the_value_that_transformers_takes(kind):
    from transformers import CONFIG_MAPPING

    read = ARCHITECTURES[kind].config.from_dict
    assert read({"model_type": kind}) == read(CONFIG_MAPPING[kind]().to_dict())
