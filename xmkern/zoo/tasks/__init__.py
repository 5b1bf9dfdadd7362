"""What systems are trained for and measured by, on the OpenMoji pictures and their names."""

from xmkern.zoo.tasks.base import Batch, Score, Task
from xmkern.zoo.tasks.pictures import Pictures
from xmkern.zoo.tasks.questions import QuestionAnswering
from xmkern.zoo.tasks.retrieval import Retrieval
from xmkern.zoo.tasks.text_to_image import TextToImage

TASKS: dict[str, type[Task]] = {
    "retrieval": Retrieval,
    "questions": QuestionAnswering,
    "pictures": Pictures,
    "text_to_image": TextToImage,
}

__all__ = ["TASKS", "Batch", "Pictures", "QuestionAnswering", "Retrieval", "Score", "Task", "TextToImage"]
