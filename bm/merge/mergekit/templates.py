"""Chat templates that a mergekit config may give by name, written here after the formats they are named for."""

from bm.errors import UserError, nearest

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' ~ message.role ~ '<|end_header_id|>\\n\\n' ~ "
    "message.content | trim ~ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)

ALPACA = (
    "{% set titles = {'user': '### Instruction:\\n', 'user_context': '### Input:\\n', "
    "'assistant': '### Response:\\n'} %}"
    "{% for message in messages %}{{ '' if loop.first else '\\n\\n' }}"
    "{{ titles.get(message.role, '') ~ message.content | trim }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n\\n' ~ titles.assistant }}{% endif %}"
)

MISTRAL = (
    "{{ bos_token }}{% set ns = namespace(system='') %}{% for message in messages %}"
    "{% if message.role == 'system' %}{% set ns.system = message.content ~ '\\n\\n' %}"
    "{% elif message.role == 'user' %}{{ ' [INST] ' ~ ns.system ~ message.content ~ ' [/INST]' }}"
    "{% set ns.system = '' %}"
    "{% else %}{{ ' ' ~ message.content ~ eos_token }}{% endif %}{% endfor %}"
)

EXAONE = (
    "{% if messages[0].role != 'system' %}{{ '[|system|][|endofturn|]\\n' }}{% endif %}{% for message in messages %}"
    "{{ '[|' ~ message.role ~ '|]' ~ message.content ~ ('\\n' if message.role == 'user' else '[|endofturn|]\\n') }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '[|assistant|]' }}{% endif %}"
)

TEMPLATES = {"alpaca": ALPACA, "chatml": CHATML, "exaone": EXAONE, "llama3": LLAMA3, "mistral": MISTRAL}


def named_template(name: str) -> str:
    """The template of that name; UserError when there is none."""
    if name not in TEMPLATES:
        raise UserError(f"chat_template '{name}': give `auto`, a template, or a name{nearest(name, TEMPLATES)}")
    return TEMPLATES[name]
