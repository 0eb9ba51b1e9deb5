package podcni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

// probe asks one binary, under the time limit that the runner sets.
func (p *prober) probe(ctx context.Context, b binary) ([]string, error) {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	inv := &invocation{
		verb: verbVersion, plugin: b.typ, path: b.path,
		env:   p.run.environ(verbVersion, "", "", "", ""),
		stdin: fmt.Appendf(nil, `{"cniVersion":%q}`, version.Current()),
	}
	out, err := p.run.run(ctx, inv)
	if err != nil {
		if predatesVersion(err) {
			return []string{unversioned}, nil
		}
		return nil, err
	}
	versions, err := decodeVersions(out.stdout)
	if err != nil {
		return nil, inv.fail(out, err)
	}
	return versions, nil
}

// predatesVersion says whether a plugin's answer is that it knows no VERSION,
// which makes it one of 0.1.0 (specification, "VERSION"). No code of its own is
// set aside for that, and the generic ones also stand for passing troubles, so
// that the message has to be looked at, as in libcni.
func predatesVersion(err error) bool {
	var answer *types.Error
	if !errors.As(err, &answer) {
		return false
	}
	if answer.Code != types.ErrInvalidEnvironmentVariables && answer.Code < 100 {
		return false
	}
	return strings.Contains(answer.Msg, "CNI_COMMAND") || strings.Contains(answer.Msg, "env variables missing")
}

// longestVersion bounds a version that a plugin says to speak, in bytes.
const longestVersion = 32

// decodeVersions reads the answer to VERSION.
func decodeVersions(stdout []byte) ([]string, error) {
	if len(bytes.TrimSpace(stdout)) == 0 {
		return nil, ErrNoOutput
	}
	var answer struct {
		CNIVersion        string    `json:"cniVersion"`
		SupportedVersions []*string `json:"supportedVersions"`
	}
	if err := json.Unmarshal(stdout, &answer); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadOutput, err)
	}
	var versions []string
	for _, v := range answer.SupportedVersions[:min(len(answer.SupportedVersions), maxVersions)] {
		if v != nil && *v != "" && len(*v) <= longestVersion && !slices.Contains(versions, *v) {
			versions = append(versions, *v)
		}
	}
	if len(versions) > 0 {
		return versions, nil
	}
	if answer.CNIVersion == "0.2.0" { // which knew no supportedVersions
		return []string{unversioned, "0.2.0"}, nil
	}
	return nil, fmt.Errorf("%w: no supportedVersions", ErrBadOutput)
}
