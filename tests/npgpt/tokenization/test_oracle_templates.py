"""Chat templates, rendered and encoded as transformers does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgpt.errors import UserError
from npgpt.tokenizers import BPETokenizer, load_tokenizer
from npgpt.tokenizers.huggingface import write_hugging_face
from npgpt.tokenizers.templates import TEMPLATES

SPECIAL = [
    "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>",
    "<|end_header_id|>", "<|eot_id|>", "<unk>", "<|im_start|>s",
]  # fmt: skip

FORMS = {  # the forms of published models, each in the manner in which its template is written
    **TEMPLATES,
    "smollm2": (
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
        "Face<|im_end|>\n' }}{% endif %}"
        "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "llama3": """\
{%- set ns = namespace(system="") %}
{%- if messages[0]['role'] == 'system' %}
    {%- set ns.system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- endif %}
{{- bos_token ~ '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{%- if tools is not none %}
    {%- for tool in tools %}
        {{- tool | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- ns.system ~ '<|eot_id|>' }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    "mistral": """\
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate: user, assistant, user, ...') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {%- if loop.first and system_message is defined %}
            {{- ' [INST] ' + system_message + '\\n\\n' + message['content'] + ' [/INST]' }}
        {%- else %}
            {{- ' [INST] ' + message['content'] + ' [/INST]' }}
        {%- endif %}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + message['content'] + eos_token }}
    {%- endif %}
{%- endfor %}
""",
    "zephyr": """\
{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
""",
    "of many parts": """\
{#- a comment -#}
{%- macro show(message, mark='*') -%}
    {{ mark * 2 }}{{ message.role | upper }}: {{ message.content.strip().split('\\n')[-1] }}
{%- endmacro -%}
{% set roles = messages | map(attribute='role') | list %}
{{ roles | unique | join(', ') }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }}
{% for message in messages if message.role != 'tool' %}
    {% if message.role == 'system' %}{% continue %}{% endif %}
    {{ show(message) }}{{ loop.index }}/{{ loop.length }}
    {{ (loop.previtem | default(message)).role }}
    {% generation %}{{ message.content | tojson }}{% endgeneration %}
    {% if loop.index > 6 %}{% break %}{% endif %}
{% endfor %}
{% set text %}{% for role in roles[::-1] %}{{ role[:2] ~ ' ' }}{% endfor %}{% endset %}
{{ text | replace('u', 'U') | indent(2, true) }}{{ dict(a=1) | tojson }}{{ -3 // 2 }} {{ 7 % 4 }}
{{ (more | default({})).items() | list }}{{ 'ab'.replace('a', 'c') }}
{{ {'b': 1, 'a': [2]} | dictsort }}
""",
}
PIECES = ["a", "B", " ", "\n", "'", "é", "天", "<s>", "<", "|", "im", "<|im_end|>", "{{ 1 }}"]
CONTENTS = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The same tokenizer of ours and of transformers."""
    pytest.importorskip("transformers")
    from transformers import AutoTokenizer

    ranks = {bytes([byte]): byte for byte in range(256)} | {b"he": 256, b"<|": 257, b"im": 258}
    special = {token: 259 + i for i, token in enumerate(SPECIAL)}
    ours = BPETokenizer(ranks, special_tokens=special)
    ours.special_tokens_map = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    ours.chat_template = FORMS["zephyr"]
    folder = tmp_path_factory.mktemp("tokenizer")
    write_hugging_face(ours, folder)
    return load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)


def conversations(texts=CONTENTS):
    """Conversations of alternating roles, of one or more messages; perhaps with a system prompt."""

    def build(system, contents):
        first = [] if system is None else [{"role": "system", "content": system}]
        roles = ["user", "assistant"] * len(contents)
        return first + [
            {"role": role, "content": content}
            for role, content in zip(roles, contents, strict=False)
        ]

    return st.builds(build, st.none() | texts, st.lists(texts, min_size=1, max_size=5))


@pytest.mark.usefixtures("oracle")
@pytest.mark.parametrize("form", FORMS)
@given(messages=conversations(), prompt=st.booleans())
def test_rendered_and_encoded_as_transformers_does(pair, form, messages, prompt):
    ours, theirs = pair
    options = dict(chat_template=FORMS[form], add_generation_prompt=prompt)
    text = ours.apply_chat_template(messages, tokenize=False, **options)
    assert text == theirs.apply_chat_template(messages, tokenize=False, **options)
    for sanitized in (False, True):
        options["sanitize_control_tokens"] = sanitized
        expected = theirs.apply_chat_template(messages, return_dict=False, **options)
        assert ours.apply_chat_template(messages, **options).tolist() == expected


@pytest.mark.usefixtures("oracle")
def test_the_template_of_a_folder_and_other_variables(pair):
    ours, theirs = pair
    messages = [{"role": "user", "content": "Hi!", "name": None}]
    assert ours.chat_template == theirs.chat_template == FORMS["zephyr"]
    assert ours.special_tokens_map == {**theirs.special_tokens_map}
    expected = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert (
        ours.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == expected
    )
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"é": [1, 2.5, None]}}}]
    options = dict(chat_template=FORMS["llama3"], tokenize=False, tools=tools, bos_token="<b>")
    assert ours.apply_chat_template(messages, **options) == theirs.apply_chat_template(
        messages, **options
    )
    options = dict(chat_template="{{ strftime_now('%Y') }}{{ messages[0].name is defined }}")
    assert ours.apply_chat_template(messages, tokenize=False, **options) == (
        theirs.apply_chat_template(messages, tokenize=False, **options)
    )


@pytest.mark.usefixtures("oracle")
def test_what_a_template_refuses(pair):
    ours, theirs = pair
    messages = [{"role": "assistant", "content": "I begin."}]
    with pytest.raises(Exception, match="roles must alternate"):
        theirs.apply_chat_template(messages, chat_template=FORMS["mistral"])
    with pytest.raises(UserError, match="refuses these messages: roles must alternate"):
        ours.apply_chat_template(messages, chat_template=FORMS["mistral"])
