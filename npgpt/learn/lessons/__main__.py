"""Write what the stepper prints now into the lessons: ``python -m npgpt.learn.lessons``."""

from autograd.files import write_text
from npgpt.learn.lessons import lessons

if __name__ == "__main__":
    for lesson in lessons():
        write_text(lesson.path, lesson.replayed())
