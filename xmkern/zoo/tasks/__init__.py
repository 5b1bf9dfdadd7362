"""What systems are trained for and measured by, on the OpenMoji pictures and their names."""

from xmkern.zoo.tasks.annotation import Annotation
from xmkern.zoo.tasks.base import Batch, Score, Task
from xmkern.zoo.tasks.hashing import Hashing
from xmkern.zoo.tasks.questions import QuestionAnswering
from xmkern.zoo.tasks.retrieval import Retrieval
from xmkern.zoo.tasks.zero_shot import ZeroShot

TASKS: dict[str, type[Task]] = {
    "annotation": Annotation,
    "hashing": Hashing,
    "questions": QuestionAnswering,
    "retrieval": Retrieval,
    "zero_shot": ZeroShot,
}

__all__ = ["TASKS", "Annotation", "Batch", "Hashing", "QuestionAnswering", "Retrieval", "Score", "Task", "ZeroShot"]
