"""Bring the stepper's output in the lessons up to date: ``python -m npgpt.learn.lessons``."""

from autograd.files import write_text
from npgpt.learn.lessons import lessons

if __name__ == "__main__":
    for lesson in lessons():
        write_text(lesson.path, lesson.replayed())
