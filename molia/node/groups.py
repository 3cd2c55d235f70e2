"""Errors that come out of task groups."""


def sole_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the one error in a group, so that callers can catch it by its class."""
    if len(group.exceptions) != 1:
        return group
    only = group.exceptions[0]
    return sole_error(only) if isinstance(only, BaseExceptionGroup) else only
