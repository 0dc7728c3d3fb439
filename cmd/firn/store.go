package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/firnlog/firn/objectstore"
	"github.com/firnlog/firn/objectstore/file"
	"github.com/firnlog/firn/objectstore/gcs"
	"github.com/firnlog/firn/objectstore/minio"
	"github.com/firnlog/firn/objectstore/s3"
)

// checkStore says why a store's URL cannot be used. It opens nothing.
func checkStore(raw string) error {
	_, err := objectstore.ParseURL(raw)
	if err == nil {
		return nil
	}
	return plainError(strings.TrimPrefix(err.Error(), objectstore.ErrURL.Error()+": "))
}

// plainError is an error that is only its text.
type plainError string

func (e plainError) Error() string { return string(e) }

// openStore opens the object store that a URL names. Calls are retried, and each
// attempt is counted, as a provider bills it.
func openStore(ctx context.Context, raw string) (objectstore.Store, error) {
	u, err := objectstore.ParseURL(raw)
	if err != nil {
		return nil, err
	}
	var store objectstore.Store
	switch u.Scheme {
	case "s3":
		store, err = s3.Open(ctx, s3.FromURL(u))
	case "gs":
		store, err = gcs.Open(ctx, gcs.FromURL(u))
	case "minio":
		store, err = minio.Open(ctx, minio.FromURL(u))
	case "file":
		store, err = file.Open(ctx, file.FromURL(u))
	default:
		return nil, fmt.Errorf("there is no adapter for %s://", u.Scheme)
	}
	if err != nil {
		return nil, err
	}
	return objectstore.WithRetry(objectstore.WithMetrics(store, u.Scheme), objectstore.RetryConfig{}), nil
}
