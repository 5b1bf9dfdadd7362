"""What systems are trained for and measured by, on the OpenMoji pictures and their names."""

from xmkern.zoo.tasks.base import Batch, Score, Task
from xmkern.zoo.tasks.captions import Captions
from xmkern.zoo.tasks.clips import Actions
from xmkern.zoo.tasks.hashing import Hashing
from xmkern.zoo.tasks.questions import QuestionAnswering
from xmkern.zoo.tasks.retrieval import Retrieval
from xmkern.zoo.tasks.translation import Translation

TASKS: dict[str, type[Task]] = {
    "actions": Actions,
    "captions": Captions,
    "hashing": Hashing,
    "questions": QuestionAnswering,
    "retrieval": Retrieval,
    "translation": Translation,
}

__all__ = ["TASKS", "Batch", "Score", "Task"]
