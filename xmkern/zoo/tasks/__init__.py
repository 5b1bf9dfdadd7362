"""What systems are trained for and measured by, on the OpenMoji pictures and their names."""

from xmkern.zoo.tasks.base import Batch, Score, Task
from xmkern.zoo.tasks.clips import Actions
from xmkern.zoo.tasks.questions import QuestionAnswering
from xmkern.zoo.tasks.retrieval import Retrieval

TASKS: dict[str, type[Task]] = {"actions": Actions, "retrieval": Retrieval, "questions": QuestionAnswering}

__all__ = ["TASKS", "Actions", "Batch", "QuestionAnswering", "Retrieval", "Score", "Task"]
