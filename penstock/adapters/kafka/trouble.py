"""Kafka's errors in our words: what a caller may do is told by the class, the cause is kept."""

from __future__ import annotations

from aiokafka import errors as kafka  # type: ignore[import-untyped,unused-ignore]

from penstock.errors import (
    Closed,
    Corrupt,
    Fenced,
    Forbidden,
    InvalidInput,
    NotFound,
    OutOfSpace,
    PenstockError,
    Unavailable,
    Unsupported,
)

_FENCED = (kafka.ProducerFenced, kafka.InvalidProducerEpoch, kafka.TransactionCoordinatorFenced)
_FORBIDDEN = (
    kafka.TopicAuthorizationFailedError,
    kafka.GroupAuthorizationFailedError,
    kafka.ClusterAuthorizationFailedError,
    kafka.TransactionalIdAuthorizationFailed,
    kafka.AuthenticationFailedError,
    kafka.SaslAuthenticationFailed,
)
_INVALID = (
    kafka.MessageSizeTooLargeError,
    kafka.RecordListTooLargeError,
    kafka.InvalidTopicError,
    kafka.InvalidConfigurationError,
    kafka.InvalidReplicationFactorError,
    kafka.InvalidGroupIdError,
)
_UNSUPPORTED = (
    kafka.UnsupportedVersionError,
    kafka.IncompatibleBrokerVersion,
    kafka.UnrecognizedBrokerVersion,
    kafka.UnsupportedSaslMechanismError,
    kafka.AuthenticationMethodNotSupported,
    kafka.UnsupportedCodecError,
)


def passing(error: kafka.KafkaError) -> bool:
    """Whether the same request may succeed a moment later."""
    return bool(error.retriable) or isinstance(error, kafka.BrokerNotAvailableError | kafka.KafkaTimeoutError)


def words(error: BaseException | None) -> str:
    """A foreign error's name and text on one line, for the end of a sentence."""
    if error is None:
        return "no answer"
    text = " ".join(str(error).split())
    name = type(error).__name__
    return name if not text else text if name in text else f"{name}: {text}"


def translated(error: kafka.KafkaError, what: str) -> PenstockError:
    """The error to raise from `error`; `what` says what was tried, as the beginning of a sentence."""
    reason = f"{what}: {words(error)}"
    if isinstance(error, _FENCED):
        return Fenced(f"{what}: another writer with the same transactional id has taken over")
    if isinstance(error, _FORBIDDEN):
        return Forbidden(f"{what}: the broker does not allow it ({words(error)})")
    if isinstance(error, _INVALID):
        return InvalidInput(reason)
    if isinstance(error, _UNSUPPORTED):
        return Unsupported(reason)
    if isinstance(error, kafka.UnknownTopicOrPartitionError):
        return NotFound(reason)
    if isinstance(error, kafka.KafkaStorageError):
        return OutOfSpace(f"{what}: the broker cannot use its disk, which may be full ({words(error)})")
    if isinstance(error, kafka.CorruptRecordException):
        return Corrupt(reason)
    if isinstance(error, kafka.ProducerClosed | kafka.ConsumerStoppedError):
        return Closed(f"{what}: the log is closed")
    return Unavailable(reason)
