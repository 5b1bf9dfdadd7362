"""What systems are trained for and measured by, on the OpenMoji pictures and their names."""

from xmkern.zoo.tasks.base import Batch, Score, Task
from xmkern.zoo.tasks.hashing import Hashing
from xmkern.zoo.tasks.questions import QuestionAnswering
from xmkern.zoo.tasks.retrieval import Retrieval

TASKS: dict[str, type[Task]] = {
    "hashing": Hashing,
    "questions": QuestionAnswering,
    "retrieval": Retrieval,
}

__all__ = ["TASKS", "Batch", "Hashing", "QuestionAnswering", "Retrieval", "Score", "Task"]
