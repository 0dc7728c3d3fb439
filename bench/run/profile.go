package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
)

// saveProfile begins a CPU profile of a broker; wait returns when it is in the
// file.
func saveProfile(ctx context.Context, url string, length time.Duration, file string) (wait func() error) {
	var g errgroup.Group
	g.Go(func() error {
		body, err := get(ctx, fmt.Sprintf("%s?seconds=%d", url, max(int(length.Seconds()), 1)))
		if err != nil {
			return err
		}
		defer body.Close()
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		f, err := os.Create(file)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, body)
		return errors.Join(err, f.Close())
	})
	return g.Wait
}
