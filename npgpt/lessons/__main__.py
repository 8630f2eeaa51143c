"""Write what the stepper prints now into the lessons: ``python -m npgpt.lessons``."""

from npgpt.lessons import lessons

if __name__ == "__main__":
    for lesson in lessons():
        lesson.path.write_text(lesson.replayed(), encoding="utf-8")
