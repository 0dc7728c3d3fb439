package metastore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/raft/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	firstAttempt = time.Second            // of a call in a cluster; each next one may take twice as long
	tryPause     = 20 * time.Millisecond  // between attempts
	termPause    = 100 * time.Millisecond // for what a new leader has in hand
)

// Tests make these shorter.
var (
	longAttempt = 8 * time.Second  // of the last of a call's attempts
	tryFor      = 15 * time.Second // in all
)

var errNewTerm = errors.New("metastore: etcd has elected meanwhile")

// try does a call of etcd again while it has no leader. What a member passed on
// to a leader that has died is never answered, so an attempt ends soon after a
// new leader is known, and else after firstAttempt. unsure says that an attempt
// before the last one may have been done all the same.
//
// srv is nil for a client that belongs to no store. A broker without a cluster
// waits for the one attempt: nobody else would answer sooner.
func try(ctx context.Context, srv *server, do func(context.Context) error) (unsure bool, err error) {
	limit := firstAttempt
	end := time.Now().Add(tryFor)
	for {
		err := attempt(ctx, srv, limit, do)
		switch {
		case err == nil || !transient(err):
			return unsure, err
		case ctx.Err() != nil:
			return unsure, fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case time.Now().After(end):
			return unsure, err
		}
		unsure = true
		limit = min(2*limit, longAttempt)
		select {
		case <-time.After(tryPause):
		case <-ctx.Done():
			return unsure, err
		case <-srv.stopped():
			return unsure, err
		}
	}
}

func attempt(ctx context.Context, srv *server, limit time.Duration, do func(context.Context) error) error {
	leave, ok := srv.enter()
	if !ok {
		return rpctypes.ErrStopped
	}
	defer leave()
	if !srv.solitary() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	if srv == nil || srv.etcd == nil {
		return do(clientv3.WithRequireLeader(ctx)) // a member that knows no leader says so at once
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go cutShort(ctx, srv.etcd.Server, cancel)
	return do(ctx)
}

// cutShort ends a call when nobody will answer it: the member stops, or has a
// new leader since.
func cutShort(ctx context.Context, srv *etcdserver.EtcdServer, cancel context.CancelCauseFunc) {
	select {
	case <-ctx.Done():
		return
	case <-srv.StoppingNotify():
		cancel(rpctypes.ErrStopped)
		return
	case <-srv.FirstCommitInTermNotify():
	}
	select {
	case <-ctx.Done():
	case <-srv.StoppingNotify():
	case <-time.After(termPause):
	}
	cancel(errNewTerm)
}

// stopped is closed when etcd serves this process no longer; nil for no store.
func (s *server) stopped() <-chan struct{} {
	if s == nil {
		return nil
	}
	return s.down
}

// solitary says that etcd is this process and nothing else.
func (s *server) solitary() bool { return s != nil && s.alone }

// transient says that another attempt may find a leader, or another member.
func transient(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.Is(err, errNewTerm) {
		return true
	}
	var e rpctypes.EtcdError
	if errors.As(err, &e) {
		return e.Code() == codes.Unavailable || err == rpctypes.ErrNotLeader || err == rpctypes.ErrTooManyRequests
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return true
	}
	return errors.Is(err, raft.ErrProposalDropped) || status.Convert(err).Message() == raft.ErrProposalDropped.Error()
}
