package objectstore

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
)

// CheckGet says whether GetRange takes these arguments, as far as can be told
// without the object: ErrKey, ErrRange.
func CheckGet(key string, off, n int64) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	if off < 0 || n > math.MaxInt64-off {
		return fmt.Errorf("%w: bytes %d+%d", ErrRange, off, n)
	}
	return nil
}

// RangeHeader gives the HTTP Range header for n bytes from off (n < 0: to the
// end); "" for the whole object. n must not be 0: HTTP cannot ask for nothing.
func RangeHeader(off, n int64) string {
	switch {
	case n < 0 && off == 0:
		return ""
	case n < 0:
		return fmt.Sprintf("bytes=%d-", off)
	}
	return fmt.Sprintf("bytes=%d-%d", off, off+n-1)
}

// EmptyRange answers a GetRange of no bytes, which HTTP cannot ask for: it is
// there if off is not past the object's end. refused is what the store said to
// a range that begins at off, if it was asked: then off must be the end.
func EmptyRange(ctx context.Context, s Store, key string, off int64, refused error) (io.ReadCloser, error) {
	obj, err := s.Head(ctx, key)
	if err != nil {
		return nil, err
	}
	if off > obj.Size || refused != nil && off < obj.Size {
		return nil, Fail(ctx, "get", key, ErrRange, fmt.Errorf("offset %d of %d bytes", off, obj.Size))
	}
	return NewBody(http.NoBody, key, 0, obj.ETag), nil
}

// CheckRange compares a response's Content-Range ("" where there was none) and
// Content-Length with what was asked for, and gives the length of the body. A
// server that ignored the range, or cut it at the object's end, must not pass:
// ErrRange where the object is too short, ErrUnavailable for an answer that
// makes no sense.
func CheckRange(off, n int64, contentRange string, contentLength int64) (int64, error) {
	if contentLength < 0 {
		return 0, fmt.Errorf("%w: response without a length", ErrUnavailable)
	}
	if contentRange == "" {
		if off == 0 && (n < 0 || n == contentLength) {
			return contentLength, nil // the whole object
		}
		if off+max(n, 0) > contentLength {
			return 0, fmt.Errorf("%w: bytes %d+%d of %d", ErrRange, off, n, contentLength)
		}
		return 0, fmt.Errorf("%w: bytes %d+%d were asked for, the response has no range", ErrUnavailable, off, n)
	}
	span, total, ok1 := strings.Cut(strings.TrimPrefix(contentRange, "bytes "), "/")
	first, last, ok2 := strings.Cut(span, "-")
	from, err1 := strconv.ParseInt(first, 10, 64)
	to, err2 := strconv.ParseInt(last, 10, 64)
	if !ok1 || !ok2 || err1 != nil || err2 != nil || from != off || to < from || to-from+1 != contentLength {
		return 0, fmt.Errorf("%w: bytes %d+%d were asked for, the response says %q and %d bytes", ErrUnavailable, off, n, contentRange, contentLength)
	}
	if n >= 0 && contentLength < n {
		return 0, fmt.Errorf("%w: bytes %d+%d of %s", ErrRange, off, n, total)
	}
	if n >= 0 && contentLength > n {
		return 0, fmt.Errorf("%w: bytes %d+%d were asked for, the response has %d", ErrUnavailable, off, n, contentLength)
	}
	return contentLength, nil
}
