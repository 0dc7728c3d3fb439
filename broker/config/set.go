package config

import (
	"encoding/csv"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/firnlog/firn/broker/brokerconfig"
)

// SetValue is one broker config as it was given.
type SetValue struct {
	Name   string
	Text   string
	Origin Origin
	Where  string // "--set", "FIRN_SET" or "firn.yaml:3"
}

// loadSet takes broker configs from the three places, each name from the
// strongest that has it, and checks them.
func (l *Loaded) loadSet(flags []string, env string, file map[string]fileValue) []error {
	var errs []error
	given := map[string]SetValue{}
	for name, f := range file {
		given[name] = SetValue{name, f.text, FromFile, fmt.Sprintf("%s:%d", l.File, f.line)}
	}
	fromEnv, err := splitSet(env)
	if err != nil {
		errs = append(errs, &Error{Where: "FIRN_SET", Key: "FIRN_SET", Reason: err.Error()})
	}
	for _, place := range []struct {
		origin Origin
		where  string
		items  []string
	}{{FromEnv, "FIRN_SET", fromEnv}, {FromFlag, "--set", flags}} {
		for _, item := range place.items {
			name, value, ok := strings.Cut(item, "=")
			name = strings.TrimSpace(name)
			v := SetValue{name, value, place.origin, place.where}
			if first, twice := given[name]; !ok || name == "" {
				errs = append(errs, v.error(fmt.Sprintf("%q is not NAME=VALUE", item)))
			} else if twice && first.Origin == place.origin {
				errs = append(errs, v.error("is set twice"))
			} else {
				given[name] = v
			}
		}
	}
	l.Settings.Set = make(map[string]string, len(given))
	for _, name := range slices.Sorted(maps.Keys(given)) {
		v := given[name]
		l.Set = append(l.Set, v)
		if err := brokerconfig.CheckStatic(name, v.Text); err != nil {
			errs = append(errs, v.error(reason(err)))
			continue
		}
		l.Settings.Set[name] = v.Text
	}
	if len(errs) > 0 {
		return errs
	}
	if _, err := brokerconfig.Resolve(l.Settings.Set, nil, nil); err != nil {
		// Several do not fit together, of which one may be a default.
		var be *brokerconfig.Error
		errors.As(err, &be)
		v, ok := given[be.Name]
		if !ok {
			v = SetValue{Name: be.Name, Where: "set"}
		}
		errs = append(errs, v.error(reason(err)))
	}
	return errs
}

// error says what is wrong with v, and where.
func (v SetValue) error(reason string) error {
	if v.Name != "" {
		return &Error{Where: v.Where, Key: v.Name, Reason: reason}
	}
	return &Error{Where: v.Where, Key: v.Where, Reason: reason}
}

// reason is the error without the name that it begins with.
func reason(err error) string {
	var be *brokerconfig.Error
	if errors.As(err, &be) {
		return be.Reason
	}
	return err.Error()
}

// splitSet cuts FIRN_SET at its commas; an item that has commas itself is in
// double quotes: a=b,"c=d,e".
func splitSet(v string) ([]string, error) {
	if strings.TrimSpace(v) == "" {
		return nil, nil
	}
	r := csv.NewReader(strings.NewReader(v))
	r.TrimLeadingSpace = true
	items, err := r.Read()
	if err != nil {
		return nil, errors.New(`is not a list such as num.partitions=6,"log.cleanup.policy=compact,delete"; an item that has a comma stands in double quotes`)
	}
	if rest, err := r.Read(); err == nil || len(rest) > 0 {
		return nil, errors.New("has more than one line")
	}
	return items, nil
}
