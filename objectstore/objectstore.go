// Package objectstore says what Firn needs of an object store: small objects
// and multi-part ones, written once, never overwritten, read by range, listed
// and deleted. Adapters live below it, one folder each; retry, metrics and
// faults are decorators of a Store. What objects mean belongs to tiering.
package objectstore

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"
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
)

// Object is what a listing or Head knows of an object.
type Object struct {
	Key      string
	Size     int64     // bytes
	Modified time.Time // by the store's clock
	ETag     string    // opaque; what Swap compares
}

// Store is a bucket (or a prefix in one; keys are relative to it). Methods
// are safe for concurrent use and end early, with ctx's error, when ctx ends.
// Keys are 1–512 bytes of [0-9A-Za-z._/-], without empty, "." or ".." parts.
type Store interface {
	// Put writes a new object of exactly size bytes read from r, as one call:
	// the object is there whole or not at all. ErrExists when the key is
	// taken. Large objects go in parts. A retried Put reads r anew through
	// Seek.
	Put(ctx context.Context, key string, r io.ReadSeeker, size int64) (Object, error)
	// Swap writes a small object (≤ 1 MiB) only if the present one's ETag is
	// etag; etag "" means that there must be none. ErrExists otherwise.
	Swap(ctx context.Context, key string, data []byte, etag string) (Object, error)
	// GetRange opens n bytes from off (n < 0: to the end). Reading fewer than
	// n bytes ends in io.ErrUnexpectedEOF. ErrNotFound, ErrRange.
	GetRange(ctx context.Context, key string, off, n int64) (io.ReadCloser, error)
	// Head describes an object. ErrNotFound.
	Head(ctx context.Context, key string) (Object, error)
	// List yields the objects whose keys start with prefix and are greater
	// than after, in the byte order of their keys, paging as it goes.
	List(ctx context.Context, prefix, after string) iter.Seq2[Object, error]
	// Delete removes an object; one that is not there is no error.
	Delete(ctx context.Context, key string) error
	// String names the store for people, without credentials.
	String() string
	// Close gives up connections. The Store is not used afterwards.
	Close() error
}
