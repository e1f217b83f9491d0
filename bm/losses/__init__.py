"""What training minimises: functions that `conf/loss/` names by `_target_`, and that yours stand beside.

A **loss of tokens** gets a chunk of logits [S, V] (fp32; float64 in gradient checks) and targets [S] (int64), and
returns the sum over the chunk as a scalar. Training differentiates it with respect to the logits, divides by the
supervised tokens of the whole step, and never holds the logits of more than a chunk. What else it needs it asks for by
the names of its parameters:

- `teacher` [S, V], the logits of `branch.teacher` or of the domain's expert; with `branch.stored=64` a `Likeliest`,
  its 64 likeliest tokens in their place, which `distributions` takes like logits;
- `difficulty` [S], the cross entropy of each label's trace over the mean of the step's traces (one more forward pass);
- `epoch`, how many epochs have passed, a float.

A **relation** (`branch.relation`) compares the traces of a pack by their `features` [N, H], the student's last hidden
states averaged over each response, and is averaged over the packs of a step and added to the loss of tokens. It may ask
for `teacher` [N, H'], the teacher's features, and `domains` [N], int64.
"""

from bm.losses.distributions import Likeliest as Likeliest
from bm.losses.distributions import distributions as distributions
from bm.losses.relations import contrast as contrast
from bm.losses.relations import rkd as rkd
from bm.losses.tokens import cross_entropy as cross_entropy
from bm.losses.tokens import gkd as gkd
from bm.losses.tokens import kd as kd
from bm.losses.tokens import near as near
from bm.losses.tokens import pckd as pckd
from bm.losses.tokens import sft as sft
