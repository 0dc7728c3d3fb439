// Package gcs stores objects in Google Cloud Storage. Credentials are the
// application default ones (GOOGLE_APPLICATION_CREDENTIALS, gcloud's own, the
// instance's or workload's service account); with STORAGE_EMULATOR_HOST set it
// talks to that emulator, without any.
package gcs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"cloud.google.com/go/storage"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/iterator"
	"google.golang.org/api/option"
	htransport "google.golang.org/api/transport/http"

	"github.com/firnlog/firn/objectstore"
	"github.com/firnlog/firn/objectstore/multipart"
)

// Config says which bucket. Only Bucket must be set.
type Config struct {
	Bucket string
	Prefix string // folder in the bucket, without slashes at its ends

	// Emulator is the http://host:port of an emulator, which is then used
	// without credentials [STORAGE_EMULATOR_HOST].
	Emulator string

	// ChunkSize is how much of a large object goes in one request, in bytes, a
	// multiple of 256 KiB [multipart.PartSize]; a Put of more than this keeps
	// so much in memory. Up to this, objects go whole.
	ChunkSize int
}

// FromURL takes over a parsed gs:// URL.
func FromURL(u objectstore.URL) Config { return Config{Bucket: u.Bucket, Prefix: u.Prefix} }

// Store is a bucket or a folder in one.
type Store struct {
	cfg    Config
	prefix string // "" or ends in a slash
	client *storage.Client
	bucket *storage.BucketHandle
	base   *http.Transport
}

var _ objectstore.Store = (*Store)(nil)

// Open finds the credentials. It does not talk to the store: that one may be
// down.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Bucket == "" {
		return nil, errors.New("gcs: no bucket given")
	}
	if cfg.ChunkSize == 0 {
		cfg.ChunkSize = multipart.PartSize
	}
	if cfg.ChunkSize < 0 || cfg.ChunkSize%googleapi.MinUploadChunkSize != 0 {
		return nil, fmt.Errorf("gcs: chunk size %d is no multiple of 256 KiB", cfg.ChunkSize)
	}
	emulator := cfg.Emulator
	if emulator == "" {
		emulator = os.Getenv("STORAGE_EMULATOR_HOST")
	}
	base := objectstore.NewTransport()
	opts := []option.ClientOption{storage.WithJSONReads(), storage.WithDisabledClientMetrics()}
	if emulator != "" {
		if !strings.Contains(emulator, "://") {
			emulator = "http://" + emulator
		}
		opts = append(opts, option.WithEndpoint(strings.TrimRight(emulator, "/")+"/storage/v1/"),
			option.WithHTTPClient(&http.Client{Transport: base}))
	} else {
		rt, err := htransport.NewTransport(ctx, base, option.WithScopes(storage.ScopeReadWrite))
		if err != nil {
			return nil, fmt.Errorf("gcs: credentials: %w", err)
		}
		opts = append(opts, option.WithHTTPClient(&http.Client{Transport: rt}))
	}
	client, err := storage.NewClient(ctx, opts...)
	if err != nil {
		return nil, fmt.Errorf("gcs: %w", err)
	}
	// WithRetry is the one retry policy.
	client.SetRetry(storage.WithPolicy(storage.RetryNever))
	s := &Store{cfg: cfg, client: client, bucket: client.Bucket(cfg.Bucket), base: base}
	if cfg.Prefix != "" {
		s.prefix = cfg.Prefix + "/"
	}
	return s, nil
}

// String gives the store's URL.
func (s *Store) String() string {
	return objectstore.URL{Scheme: "gs", Bucket: s.cfg.Bucket, Prefix: s.cfg.Prefix}.String()
}

// Close gives up the client and its connections.
func (s *Store) Close() error {
	err := s.client.Close()
	s.base.CloseIdleConnections()
	return err
}

func (s *Store) object(key string) *storage.ObjectHandle { return s.bucket.Object(s.prefix + key) }

func fail(ctx context.Context, op, key string, err error) error {
	var api *googleapi.Error
	switch {
	case errors.Is(err, storage.ErrBucketNotExist):
		return objectstore.Fail(ctx, op, key, objectstore.ErrNoBucket, err)
	case errors.Is(err, storage.ErrObjectNotExist):
		return objectstore.Fail(ctx, op, key, objectstore.ErrNotFound, err)
	case errors.As(err, &api):
		return objectstore.Fail(ctx, op, key, objectstore.KindOfStatus(api.Code, ""), err)
	case errors.Is(err, objectstore.ErrSource), errors.Is(err, io.ErrUnexpectedEOF):
		return objectstore.Fail(ctx, op, key, nil, err)
	}
	return objectstore.Fail(ctx, op, key, objectstore.ErrUnavailable, err)
}

// Put writes up to ChunkSize bytes in one request, more by a resumable upload.
func (s *Store) Put(ctx context.Context, key string, r io.ReadSeeker, size int64) (objectstore.Object, error) {
	if err := objectstore.CheckKey(key); err != nil {
		return objectstore.Object{}, objectstore.Fail(ctx, "put", key, objectstore.ErrKey, err)
	}
	return s.write(ctx, "put", key, r, size, storage.Conditions{DoesNotExist: true})
}

// Swap writes if the present object's generation is etag.
func (s *Store) Swap(ctx context.Context, key string, data []byte, etag string) (objectstore.Object, error) {
	if err := objectstore.CheckSwap(key, data); err != nil {
		return objectstore.Object{}, objectstore.Fail(ctx, "swap", key, objectstore.ErrKey, err)
	}
	cond := storage.Conditions{DoesNotExist: true}
	if etag != "" {
		gen, err := strconv.ParseInt(etag, 10, 64)
		if err != nil || gen <= 0 { // not one of ours: it cannot be the present one
			return objectstore.Object{}, objectstore.Fail(ctx, "swap", key, objectstore.ErrExists, fmt.Errorf("%w: etag %q is no generation", objectstore.ErrExists, etag))
		}
		cond = storage.Conditions{GenerationMatch: gen}
	}
	obj, err := s.write(ctx, "swap", key, bytes.NewReader(data), int64(len(data)), cond)
	if errors.Is(err, objectstore.ErrNotFound) && etag != "" {
		err = objectstore.Fail(ctx, "swap", key, objectstore.ErrExists, err)
	}
	return obj, err
}

func (s *Store) write(ctx context.Context, op, key string, r io.ReadSeeker, size int64, cond storage.Conditions) (objectstore.Object, error) {
	src, err := multipart.NewSource(ctx, r, size, multipart.PartSize)
	if err != nil {
		return objectstore.Object{}, objectstore.Fail(ctx, op, key, nil, err)
	}
	defer src.Stop()
	// A cancelled context is the way to give a Writer up.
	wctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := s.object(key).If(cond).NewWriter(wctx)
	w.ContentType = "application/octet-stream"
	w.CRC32C, w.SendCRC32C = uint32(src.Sum()), true
	w.ChunkSize = 0
	if size > int64(s.cfg.ChunkSize) {
		w.ChunkSize = s.cfg.ChunkSize
		// The library retries chunks of a resumable upload by itself, and must
		// be told how long: that is part of the protocol, not of the call.
		w.ChunkRetryDeadline = 5 * time.Second
		w.ChunkTransferTimeout = 45 * time.Second
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{w}, src.Section(0, size), make([]byte, min(256<<10, max(size, 1)))); err != nil {
		cancel()
		_ = w.Close()
		return objectstore.Object{}, fail(ctx, op, key, err)
	}
	if err := w.Close(); err != nil {
		return objectstore.Object{}, fail(ctx, op, key, err)
	}
	a := w.Attrs()
	if a.Size != size {
		return objectstore.Object{}, objectstore.Fail(ctx, op, key, objectstore.ErrUnavailable, fmt.Errorf("the store says that it has %d bytes of %d", a.Size, size))
	}
	return objectstore.Object{Key: key, Size: size, ETag: etag(a.Generation)}, nil
}

func etag(generation int64) string { return strconv.FormatInt(generation, 10) }

// GetRange opens a range.
func (s *Store) GetRange(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if err := objectstore.CheckGet(key, off, n); err != nil {
		return nil, objectstore.Fail(ctx, "get", key, nil, err)
	}
	if n == 0 {
		return objectstore.EmptyRange(ctx, s, key, off, nil)
	}
	r, err := s.object(key).NewRangeReader(ctx, off, n)
	if err != nil {
		err = fail(ctx, "get", key, err)
		if n < 0 && errors.Is(err, objectstore.ErrRange) {
			return objectstore.EmptyRange(ctx, s, key, off, err)
		}
		return nil, err
	}
	length := r.Remain()
	if a := r.Attrs; length < 0 || a.StartOffset != off || off+length > a.Size || n > 0 && length > n {
		_ = r.Close()
		return nil, objectstore.Fail(ctx, "get", key, objectstore.ErrUnavailable,
			fmt.Errorf("bytes %d+%d were asked for, the response has %d+%d of %d", off, n, a.StartOffset, length, a.Size))
	} else if n > 0 && length < n {
		_ = r.Close()
		return nil, objectstore.Fail(ctx, "get", key, objectstore.ErrRange, fmt.Errorf("bytes %d+%d of %d", off, n, a.Size))
	}
	return objectstore.NewBody(r, key, length, etag(r.Attrs.Generation)), nil
}

// Head describes an object.
func (s *Store) Head(ctx context.Context, key string) (objectstore.Object, error) {
	if err := objectstore.CheckKey(key); err != nil {
		return objectstore.Object{}, objectstore.Fail(ctx, "head", key, objectstore.ErrKey, err)
	}
	a, err := s.object(key).Attrs(ctx)
	if err != nil {
		return objectstore.Object{}, fail(ctx, "head", key, err)
	}
	return objectstore.Object{Key: key, Size: a.Size, Modified: a.Updated, ETag: etag(a.Generation), CRC32C: multipart.CRC(a.CRC32C).Hex()}, nil
}

// List pages through the bucket.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[objectstore.Object, error] {
	return func(yield func(objectstore.Object, error) bool) {
		q := &storage.Query{Prefix: s.prefix + prefix, Projection: storage.ProjectionNoACL}
		if after != "" {
			q.StartOffset = s.prefix + after // itself included
		}
		if err := q.SetAttrSelection([]string{"Name", "Size", "Updated"}); err != nil {
			yield(objectstore.Object{}, objectstore.Fail(ctx, "list", prefix, objectstore.ErrInvalid, err))
			return
		}
		it := s.bucket.Objects(ctx, q)
		for {
			a, err := it.Next()
			if errors.Is(err, iterator.Done) {
				return
			}
			if err == nil {
				err = ctx.Err() // between the objects of a page, too
			}
			if err != nil {
				yield(objectstore.Object{}, fail(ctx, "list", prefix, err))
				return
			}
			rel, ok := strings.CutPrefix(a.Name, s.prefix)
			if !ok || rel == "" || rel <= after {
				continue
			}
			if !yield(objectstore.Object{Key: rel, Size: a.Size, Modified: a.Updated}, nil) {
				return
			}
		}
	}
}

// Delete removes an object.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := objectstore.CheckKey(key); err != nil {
		return objectstore.Fail(ctx, "delete", key, objectstore.ErrKey, err)
	}
	if err := s.object(key).Delete(ctx); err != nil {
		if err = fail(ctx, "delete", key, err); !errors.Is(err, objectstore.ErrNotFound) {
			return err
		}
	}
	return nil
}
