package objectstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Errors that every adapter returns, wrapped with the key and the cause.
var (
	// ErrNotFound says that there is no object of that key.
	ErrNotFound = errors.New("object not found")
	// ErrExists says that Put found an object of that key (if-none-match), or
	// Swap a different one than expected.
	ErrExists = errors.New("precondition failed: object exists or was changed")
	// ErrRange says that GetRange asked for bytes past the object's end.
	ErrRange = errors.New("range outside of the object")
	// ErrKey says that a key, or Swap's data, is not one that a Store takes.
	ErrKey = errors.New("not a valid key")
	// ErrDenied says that the store refuses these credentials, or there are none.
	ErrDenied = errors.New("access denied")
	// ErrNoBucket says that the bucket itself (or the file store's folder) is missing.
	ErrNoBucket = errors.New("no such bucket")
	// ErrInvalid says that the store refuses the request as wrong; trying again does not help.
	ErrInvalid = errors.New("request refused by the store")
	// ErrSource says that the bytes to write could not be read: the caller's
	// side, not the store's. It wraps the reader's error; io.ErrUnexpectedEOF
	// where there were too few.
	ErrSource = errors.New("source cannot be read")
	// ErrThrottled says that the store asks to slow down.
	ErrThrottled = errors.New("store asks to slow down")
	// ErrUnavailable says that the store could not be reached, or failed.
	ErrUnavailable = errors.New("store unavailable")
	// ErrTimeout says that one attempt took longer than its own deadline,
	// while the caller's context is still alive.
	ErrTimeout = errors.New("attempt timed out")
	// ErrChanged says that the object was replaced while it was being read.
	ErrChanged = errors.New("object changed while it was read")
)

// Fail wraps an adapter's error with the operation, the key and what kind of
// error it is (one of the sentinels above; nil: not known). When ctx has ended
// and the kind is none that the store itself decided, the kind is ctx's error:
// clients report an ended context in many forms, callers look for one.
func Fail(ctx context.Context, op, key string, kind, err error) error {
	if err == nil {
		err = kind
	}
	switch kind {
	case nil, ErrUnavailable, ErrThrottled, ErrInvalid:
		if cerr := ctx.Err(); cerr != nil {
			kind = cerr
		}
	}
	where := op
	if key != "" {
		where = fmt.Sprintf("%s %q", op, key)
	}
	switch {
	case kind == nil:
		return fmt.Errorf("%s: %w", where, err)
	case errors.Is(err, kind):
		return fmt.Errorf("%s: %w", where, err)
	}
	return fmt.Errorf("%s: %w: %w", where, kind, err)
}

// KindOfStatus gives the sentinel for an HTTP status and the error code that
// S3-like stores send beside it ("" where there is none).
func KindOfStatus(status int, code string) error {
	switch code {
	case "NoSuchBucket":
		return ErrNoBucket
	case "NoSuchKey", "NotFound":
		return ErrNotFound
	case "PreconditionFailed":
		return ErrExists
	case "InvalidRange":
		return ErrRange
	case "SlowDown", "SlowDownRead", "SlowDownWrite", "TooManyRequests", "ThrottlingException", "RequestLimitExceeded", "ServiceUnavailable":
		return ErrThrottled
	case "ConditionalRequestConflict", "OperationAborted", "RequestTimeout", "RequestTimeTooSkewed", "InternalError",
		"BadDigest", "XAmzContentChecksumMismatch", "IncompleteBody", "NoSuchUpload", "ExpiredToken":
		// Another attempt, with fresh bytes and a fresh upload, may do.
		return ErrUnavailable
	}
	switch {
	case status == http.StatusNotFound:
		return ErrNotFound
	case status == http.StatusPreconditionFailed:
		return ErrExists
	case status == http.StatusRequestedRangeNotSatisfiable:
		return ErrRange
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return ErrDenied
	case status == http.StatusTooManyRequests:
		return ErrThrottled
	case status == http.StatusRequestTimeout, status == http.StatusConflict, status >= 500, status == 0:
		return ErrUnavailable
	case status >= 300:
		return ErrInvalid
	}
	return ErrUnavailable
}

// Retryable says whether another attempt can help: everything but what the
// store decided, what the caller did wrong, and a cancelled context. An ended
// deadline counts as retryable: whose deadline it was, the caller knows.
func Retryable(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	for _, final := range []error{ErrNotFound, ErrExists, ErrRange, ErrKey, ErrDenied, ErrNoBucket, ErrInvalid, ErrSource, ErrChanged} {
		if errors.Is(err, final) {
			return false
		}
	}
	return true
}

// ErrorKind names an error for metrics and reports: one word.
func ErrorKind(err error) string {
	for _, k := range []struct {
		err  error
		name string
	}{
		{nil, "none"}, {ErrTimeout, "timeout"}, {context.Canceled, "canceled"}, {context.DeadlineExceeded, "deadline"},
		{ErrNotFound, "not_found"}, {ErrExists, "exists"}, {ErrRange, "range"}, {ErrKey, "key"}, {ErrDenied, "denied"},
		{ErrNoBucket, "no_bucket"}, {ErrInvalid, "invalid"}, {ErrThrottled, "throttled"}, {ErrChanged, "changed"},
		{ErrSource, "source"},
		{io.ErrUnexpectedEOF, "short"}, {ErrUnavailable, "unavailable"},
	} {
		if errors.Is(err, k.err) {
			return k.name
		}
	}
	return "other"
}

// CheckKey says whether key is one that a Store takes: see Store.
func CheckKey(key string) error {
	if len(key) < 1 || len(key) > 512 {
		return fmt.Errorf("%w: %d bytes long, allowed are 1 to 512", ErrKey, len(key))
	}
	for part := range strings.SplitSeq(key, "/") {
		switch {
		case part == "":
			return fmt.Errorf("%w: %q has an empty part", ErrKey, key)
		case part[0] == '.':
			return fmt.Errorf("%w: %q has a part that begins with a dot", ErrKey, key)
		case len(part) > 255:
			return fmt.Errorf("%w: %q has a part longer than 255 bytes", ErrKey, key)
		}
		if i := strings.IndexFunc(part, notKeyByte); i >= 0 {
			return fmt.Errorf("%w: %q holds %q; allowed are letters, digits and . _ - /", ErrKey, key, part[i:i+1])
		}
	}
	return nil
}

func notKeyByte(r rune) bool {
	switch {
	case '0' <= r && r <= '9', 'A' <= r && r <= 'Z', 'a' <= r && r <= 'z', r == '.', r == '_', r == '-':
		return false
	}
	return true
}

// CheckSwap says whether Swap takes this key and this much data.
func CheckSwap(key string, data []byte) error {
	if len(data) > MaxSwap {
		return fmt.Errorf("%w: swap %q with %d bytes, at most %d are allowed", ErrKey, key, len(data), MaxSwap)
	}
	return CheckKey(key)
}
