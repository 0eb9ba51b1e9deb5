package podcni

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"text/template"
)

// templatePath stands for the file of the network that WithConfTemplate makes.
const templatePath = "WithConfTemplate"

var errNoPodCIDRs = errors.New("it waits for the pod CIDRs: UpdatePodCIDRs has not been called")

// confTemplate is a network that is rendered from the pod CIDRs.
type confTemplate struct {
	text *template.Template

	// mu guards list: UpdatePodCIDRs does not wait for a load.
	mu   sync.Mutex
	list *parsedList // nil before the first
}

func newConfTemplate(text string) (*confTemplate, error) {
	t, err := template.New(templatePath).Parse(text)
	if err != nil {
		return nil, err
	}
	return &confTemplate{text: t}, nil
}

func (t *confTemplate) current() *parsedList {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.list
}

// setPodCIDRs renders the network of WithConfTemplate anew; the next load takes
// it. On an error, a *ConfigError that wraps ErrInvalidConfig, the last one
// stays. Without WithConfTemplate there is nothing to do.
func (l *loader) setPodCIDRs(cidrs []netip.Prefix) error {
	if l.template == nil {
		return nil
	}
	list, err := l.template.render(cidrs)
	if err != nil {
		return &ConfigError{Path: templatePath, Err: fmt.Errorf("%w: %w", ErrInvalidConfig, err)}
	}
	l.template.mu.Lock()
	defer l.template.mu.Unlock()
	l.template.list = list
	return nil
}

// podCIDRs is what the template sees.
type podCIDRs struct {
	PodCIDR  string
	PodCIDRs []string
	Routes   []string
}

func (t *confTemplate) render(cidrs []netip.Prefix) (*parsedList, error) {
	if len(cidrs) == 0 {
		return nil, errors.New("there are no pod CIDRs")
	}
	var data podCIDRs
	families := make(map[bool]bool)
	for i, cidr := range cidrs {
		if !cidr.IsValid() {
			return nil, fmt.Errorf("pod CIDR %d is not valid", i)
		}
		cidr = cidr.Masked()
		data.PodCIDRs = append(data.PodCIDRs, cidr.String())
		if is4 := cidr.Addr().Is4(); !families[is4] {
			families[is4] = true
			route := "::/0"
			if is4 {
				route = "0.0.0.0/0"
			}
			data.Routes = append(data.Routes, route)
		}
	}
	data.PodCIDR = data.PodCIDRs[0]
	var b boundedBuffer
	if err := t.text.Execute(&b, data); err != nil {
		return nil, err
	}
	return parseInMemory(b.data)
}

// boundedBuffer takes as much as a configuration may have.
type boundedBuffer struct{ data []byte }

func (b *boundedBuffer) Write(p []byte) (int, error) {
	if len(b.data)+len(p) > maxConfSize {
		return 0, errTooLarge
	}
	b.data = append(b.data, p...)
	return len(p), nil
}

// parseInMemory reads a configuration that has no folder beside it.
func parseInMemory(doc []byte) (*parsedList, error) {
	if len(doc) > maxConfSize {
		return nil, errTooLarge
	}
	list, err := parseNetwork(doc, false)
	if err != nil {
		return nil, err
	}
	list.onlyInlined = true
	if len(list.plugins) == 0 {
		return nil, errors.New("it has no plugins")
	}
	return list, nil
}
